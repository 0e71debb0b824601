"""Training strategies beside those of Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.optim import Optimizer

from fastgen.checkpoints.reading import read_checkpoint
from fastgen.checkpoints.seals import FROZEN
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.base import Distiller
from fastgen.errors import UserError
from fastgen.sharding import blocks, gathered, receive_buffers, receive_parameters, sharded_like


class FirstBatches:
    """The first ``count`` batches of a loader."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader = loader
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return islice(self.loader, self.count)


class FSDP2(ModelParallelStrategy):
    """Every process holds one part of every network, of its gradients and of its optimizer's state.

    A block's weights are gathered while it computes and freed afterwards (``torch.distributed.fsdp.fully_shard``; Zhao
    et al. 2023, PyTorch FSDP, arXiv 2304.11277). Roles that are adapters on one frozen teacher share its one sharded
    copy. Codecs (VAE and text encoders) are not sharded.

    Rank 0 alone reads weight files and holds whole networks in memory, on the CPU, until they are sharded; the others
    receive their parts. Checkpoints are those of one process: one file, without teacher and codec, to be resumed on any
    number of processes and sampled from on one.

    With bf16-mixed the parts stay in fp32 and the gathered weights are bf16; gradients are averaged in fp32. With
    bf16-true the parts of frozen networks are bf16, too.
    Validation leaves out up to one sample per process so that all processes call the networks equally often.

    Args:
        cpu_offload: Keep the parts, and the optimizers, in CPU memory; needs the time to move them.
    """

    lightning_module: Distiller
    lightning_restore_optimizer = True  # type: ignore[assignment]  # checkpoints are those of one process

    def __init__(self, cpu_offload: bool = False) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """One group of all processes."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        if self.cpu_offload and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"
        super().setup_environment()

    # ------------------------------------------------------------------ building

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Inside, the method is built; rank 0 alone reads weights. If one process fails, all end."""
        self.lightning_module.receives_weights = self.global_rank > 0
        built = False
        try:
            yield
            built = True
        finally:
            all_built = self.reduce_boolean_decision(built)
        if not all_built:
            raise SystemExit(2)  # another process has said why

    def setup(self, trainer: Trainer) -> None:
        """Shard the networks, then as usual."""
        self.model = self.precision_plugin.convert_module(self.lightning_module)
        self.shard(self.lightning_module)
        super().setup(trainer)
        for optimizer in self.optimizers:
            name, module = type(optimizer).__name__, type(optimizer).__module__
            if module.startswith("bitsandbytes"):
                raise UserError(
                    f"FSDP2 cannot shard {name} of bitsandbytes, whose 8-bit states belong to whole tensors; "
                    "take torch.optim.AdamW, or set trainer.strategy to ddp_find_unused_parameters_true."
                )

    def shard(self, method: Distiller) -> None:
        """Spread every network, and what is trained beside them, over the processes."""
        for network in whole_modules(method):
            for part in (*blocks(network), network):
                receive_parameters(part, self.root_device)
                if any(True for _ in part.parameters()) and not isinstance(part, FSDPModule):
                    self.fully_shard(part)
        receive_parameters(method, self.root_device)
        receive_buffers(method, self.root_device)
        method.list_trained_parameters()
        for role, parameters in method.trained_parameters.items():
            if not all(hasattr(parameter, "to_local") for parameter in parameters):
                raise UserError(
                    f"FSDP2 cannot shard what the role '{role}' of {type(method).__name__} trains; set "
                    "trainer.strategy to ddp_find_unused_parameters_true."
                )

    def fully_shard(self, module: nn.Module) -> None:
        """Shard one module; its parameters are gathered together whenever it is called."""
        mixed = str(self.precision_plugin.precision) in ("bf16-mixed", "bf16-true")
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if mixed else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # times and samples stay as exact as they are
        )
        offload = CPUOffloadPolicy(pin_memory=self.root_device.type == "cuda") if self.cpu_offload else OffloadPolicy()
        # Several calls precede a backward pass, or none follows: the weights are never left gathered.
        fully_shard(
            module,
            mesh=self.device_mesh["data_parallel"],
            reshard_after_forward=True,
            mp_policy=precision,
            offload_policy=offload,
        )
        for name in getattr(module, "forward_methods", ()):
            register_fsdp_forward_method(module, name)

    def process_dataloader(self, dataloader: Any) -> Any:
        """A finite loader with as many batches as every other process has."""
        batches = sized_len(dataloader)
        if batches is None:
            return dataloader
        fewest = int(self.reduce(torch.tensor(batches, device=self.root_device), reduce_op="min"))
        most = int(self.reduce(torch.tensor(batches, device=self.root_device), reduce_op="max"))
        if fewest < most and self.lightning_module.trainer.state.fn == TrainerFn.PREDICTING:
            raise UserError(
                f"Sharded networks predict in step, but some processes have {fewest} batches and some {most}; make "
                f"data.init_args.predict_count a multiple of {self.world_size}."
            )
        return FirstBatches(dataloader, fewest) if fewest < most else dataloader

    # ------------------------------------------------------------------ checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained, whole, on rank 0."""
        state = {k: v for k, v in self.lightning_module.state_dict().items() if not k.startswith(FROZEN)}
        return gathered(state, self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state as one process would have it, on rank 0."""
        return gathered(Strategy.optimizer_state(self, optimizer), self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process maps the file into memory and takes its parts from it."""
        return read_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each tensor's part."""
        own = self.lightning_module.state_dict()
        given = {name: sharded_like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(given, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each tensor's part."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                number: {name: sharded_like(value, parameters[number]) for name, value in entries.items()}
                for number, entries in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def whole_modules(method: Distiller) -> list[nn.Module]:
    """The modules that are called from outside: the outermost networks, and what is trained beside them."""
    found: list[nn.Module] = []

    def collect(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, Denoiser):
                found.append(child)
            else:
                collect(child)

    collect(method)
    known = {id(module) for network in found for module in network.modules()}
    for modules in method.all_trained_modules().values():
        for module in modules:
            members = list(module) if isinstance(module, nn.ModuleList) else [module]
            found += [member for member in members if id(member) not in known]
    return found
