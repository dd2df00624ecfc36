"""CAM methods: functions from a Probe to maps, (N,h,w) at the resolution of the activations or (N,H,W) at the image's.

A user's own method needs one such function anywhere on the Python path, and one yaml (or one override) that names it.
"""

from evalkit.methods.controls import centre, constant, edges, fake_cam, random
from evalkit.methods.local import hires_cam, layer_cam, recipro_cam, spatial_ablation
from evalkit.methods.pixel import gradient, guided, guided_ablation_cam, guided_backprop, guided_grad_cam, integrated_gradients, occlusion
from evalkit.methods.weighted import ablated_input_cam, ablation_cam, cam, eigen_cam, grad_cam, grad_cam_pp, score_cam, xgrad_cam

__all__ = [
    "ablated_input_cam",
    "ablation_cam",
    "cam",
    "centre",
    "constant",
    "edges",
    "eigen_cam",
    "fake_cam",
    "grad_cam",
    "grad_cam_pp",
    "gradient",
    "guided",
    "guided_ablation_cam",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "integrated_gradients",
    "layer_cam",
    "occlusion",
    "random",
    "recipro_cam",
    "score_cam",
    "spatial_ablation",
    "xgrad_cam",
]
