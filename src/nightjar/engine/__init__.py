"""What does the work: Spark, Great Expectations, MLflow. Heavy: import it only to run something."""
