"""trilab: experiments as compositions of configuration groups, every run in MLflow."""

__version__ = "0.1.0"
