"""How data becomes noise: ``x_t = alpha(t) x0 + sigma(t) noise``; larger ``t`` is noisier.

| process       | time                  | alpha | sigma             | source                                         |
|---------------|-----------------------|-------|-------------------|------------------------------------------------|
| EDM           | t = noise level, 0-80 | 1     | t                 | Karras et al. 2022, arXiv 2206.00364           |
| VP            | step, 0 .. N-1        | table | sqrt(1 - alpha^2) | Ho et al. 2020, arXiv 2006.11239               |
| RectifiedFlow | 0-1                   | 1 - t | t                 | Liu et al. 2022, 2209.03003; Lipman 2210.02747 |
| TrigFlow      | angle, 0-pi/2         | cos t | sigma_data sin t  | Lu & Song 2024, arXiv 2410.11081               |

``BrownianBridge`` is the bridge to a degraded sample (Liu et al. 2023, I2SB, arXiv 2302.05872) without that sample's
share: alpha = 1 - t, sigma = sqrt(V t (1 - t)).

Shapes: samples ``(B, ...)``, times ``(B,)`` in fp32 or fp64 (never half precision). Conversions run in fp32 or better,
whatever the dtype of the network.
"""

from fastgen.processes.base import Process
from fastgen.processes.bridge import BrownianBridge
from fastgen.processes.edm import EDM
from fastgen.processes.flow import RectifiedFlow
from fastgen.processes.prediction import PREDICTION_KINDS, Prediction, PredictionKind
from fastgen.processes.trig import TrigFlow
from fastgen.processes.vp import VP, betas_of
from fastgen.shapes import expand

__all__ = [
    "EDM",
    "PREDICTION_KINDS",
    "VP",
    "BrownianBridge",
    "Prediction",
    "PredictionKind",
    "Process",
    "RectifiedFlow",
    "TrigFlow",
    "betas_of",
    "expand",
]
