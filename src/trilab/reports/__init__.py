"""Tables and plots made from what MLflow holds, and from nothing else."""
