"""What lasts: files delivered, the warehouse, the registry of models and what is tracked with them.

In order: making, incoming, ledger, warehouse, drops/, tracking, model_files, scoring_model, mlflow_store,
registry, promotion, telling/.
"""
