"""What is known of drops besides their rows: which are labelled, whose codes were put back, which can be trusted."""
