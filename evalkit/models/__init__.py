"""Loading and cutting models."""
