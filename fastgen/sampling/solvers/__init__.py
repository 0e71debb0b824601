"""How a teacher generates in many steps; one solver per file."""

from fastgen.sampling.solvers.base import Solver
from fastgen.sampling.solvers.block_cache import BlockCache
from fastgen.sampling.solvers.ddim import DDIM
from fastgen.sampling.solvers.dpm_solver import DPMSolverPP
from fastgen.sampling.solvers.euler import Euler
from fastgen.sampling.solvers.faster_diffusion import FasterDiffusion
from fastgen.sampling.solvers.heun import Heun
from fastgen.sampling.solvers.uni_pc import UniPC

__all__ = ["DDIM", "BlockCache", "DPMSolverPP", "Euler", "FasterDiffusion", "Heun", "Solver", "UniPC"]
