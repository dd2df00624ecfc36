"""Methods: functions from a Probe to maps (N,h,w), at the resolution of the activations or, in pixel space, of the image.

A method of your own needs one such function anywhere on the Python path and one yaml (or one override) naming it.
"""

from evalkit.methods.controls import centre, constant, random
from evalkit.methods.pixel import (
    gradient,
    guided,
    guided_ablation_cam,
    guided_backprop,
    guided_grad_cam,
    integrated_gradients,
    occlusion,
)
from evalkit.methods.weighted import ablation_cam, cam, grad_cam, grad_cam_pp

__all__ = ["ablation_cam", "cam", "centre", "constant", "grad_cam", "grad_cam_pp", "random"]
__all__ += ["gradient", "guided", "guided_ablation_cam", "guided_backprop", "guided_grad_cam", "integrated_gradients", "occlusion"]
