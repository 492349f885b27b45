"""What lasts: the warehouse, the ledger of deliveries, the registry of models and what is tracked with them."""
