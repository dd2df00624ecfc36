"""The paper's three studies with people (Ablation-CAM, WACV 2020, sections 6.3 to 6.5), blinded: a page for raters, a key, their scores."""
