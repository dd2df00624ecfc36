"""The paper's three studies with people (Ablation-CAM, WACV 2020, sections 6.3 to 6.5): a blinded page, a key, and the scores.

`better` asks which of two maps is better, `trust` which of two networks, `which` which of two classes a map shows.
"""
