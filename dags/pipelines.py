"""Every pipeline of this project becomes its Airflow DAGs; see docs/airflow.md."""

from pathlib import Path

from nightjar.orchestration.airflow import project_dags

globals().update(project_dags(Path(__file__).resolve().parents[1]))
