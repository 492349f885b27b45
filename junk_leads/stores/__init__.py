"""What lasts: files delivered, the warehouse, the registry of models and what is tracked with them.

In order: incoming, ledger, code_maps, warehouse, labelled, trusting, tracking, model_files, scoring_model,
mlflow_store, registry, promotion.
"""
