"""What comes later is held against what a model was taught: drift, and outcomes."""
