"""Pipelines for a scheduler: neutral records, and the one module that turns them into Airflow."""
