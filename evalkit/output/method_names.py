"""The names of methods as papers write them."""

from evalkit.analysis.load import CONTROLS
from evalkit.layer_names import layer_of, method_of

NAMES = {
    "ablated_input_cam": "Ablated-input CAM",
    "ablation_cam": "Ablation-CAM",
    "ablation_cam_norm": "Ablation-CAM (norm)",
    "ablation_cam_softmax": "Ablation-CAM (softmax)",
    "ablation_cam_tokens": "Ablation-CAM (tokens)",
    "cam": "CAM",
    "centre": "Centre",
    "constant": "Constant",
    "edges": "Edges",
    "eigen_cam": "Eigen-CAM",
    "fake_cam": "Fake-CAM",
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "gradient": "Gradient",
    "guided_ablation_cam": "Guided Ablation-CAM",
    "guided_backprop": "Guided backpropagation",
    "guided_grad_cam": "Guided Grad-CAM",
    "hires_cam": "HiResCAM",
    "integrated_gradients": "Integrated gradients",
    "layer_cam": "LayerCAM",
    "occlusion": "Occlusion",
    "random": "Random",
    "recipro_cam": "Recipro-CAM",
    "score_cam": "Score-CAM",
    "spatial_ablation": "Spatial ablation",
    "xgrad_cam": "XGrad-CAM",
}


def display(name: str) -> str:
    """Return a method's name as papers write it, with its layer: `Grad-CAM@layer4`; an unknown name as it is. Controls are marked."""
    method, layer = method_of(name), layer_of(name)
    shown = NAMES.get(method, method) + (f"@{layer}" if layer else "")
    return f"{shown} (control)" if method in CONTROLS else shown
