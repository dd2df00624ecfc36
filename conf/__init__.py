"""The Hydra configurations, installed as `evalkit.conf`."""
