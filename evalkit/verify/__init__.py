"""Verification of finished runs: their record, the structure of their tables, and a part of their images recomputed."""
