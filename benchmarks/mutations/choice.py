"""Which test files should notice a mistake in a file."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ALL_NUMBERS = "tests/distiller/test_golden.py -k a_method_on_the_toys"
NUMBERS = f"{ALL_NUMBERS} and (NAMES)"
PROCESSES = "tests/methods/test_two_processes.py -k NAMES"
GUIDANCE = "tests/methods/test_guidance_by_number.py -k NAMES"
ROLES = "tests/methods/test_roles.py -k NAMES"
CONTRACT = "tests/methods/test_contract.py -k NAMES"
RANKS = "tests/methods/test_roles.py -k unnumbered or ranks or dropout or seed_alone or start"
"""Rules of the engine that are no rules of every method."""
MATCHING = "tests/methods/test_matching.py"
METHODS = [NUMBERS, "tests/configuration/test_defaults.py -k NAMES", GUIDANCE, PROCESSES, ROLES, CONTRACT]
"""What holds of every method, for those that a file makes."""
SCORES = [*METHODS[:2], "tests/methods/test_score.py", MATCHING, *METHODS[2:]]
TERM = "tests/extras/test_distribution_matching.py"
ENGINE = [
    NUMBERS,
    RANKS,
    "tests/methods/test_updates.py",
    "tests/extras/test_extra_rules.py",
    "tests/extras/test_any_method.py -k not order",
    ROLES,
    "tests/methods/test_published_optimizers.py -k rate or length",
    GUIDANCE,
    PROCESSES,
    CONTRACT,
    "tests/methods/test_map_parts.py -k target",
    ALL_NUMBERS,
    "tests/cli/test_seeds.py",
    "tests/cli/test_cli.py",
]
"""What every method goes through."""
RULES: dict[str, list[str]] = {
    "fastgen/callbacks/checkpoint.py": ["tests/callbacks/test_checkpoint.py", "tests/callbacks/test_rules.py"],
    "fastgen/distiller/averaging.py": ["tests/callbacks/test_ema.py", "tests/methods/test_map_parts.py"],
    "fastgen/callbacks/ema.py": ["tests/callbacks/test_ema.py", "tests/callbacks/test_rules.py"],
    "fastgen/callbacks/evaluation/evaluate.py": [
        "tests/callbacks/test_evaluation.py",
        "tests/callbacks/test_rules.py",
        "tests/callbacks/test_unfinished.py",
    ],
    "fastgen/callbacks/evaluation/measurement.py": [
        "tests/callbacks/test_evaluation.py",
        "tests/callbacks/test_rules.py",
        "tests/callbacks/test_unfinished.py",
    ],
    "fastgen/callbacks/evaluation/unfinished.py": [
        "tests/callbacks/test_unfinished.py",
        "tests/callbacks/test_rules.py",
    ],
    "fastgen/callbacks/grid.py": ["tests/callbacks/test_grid.py"],
    "fastgen/callbacks/health.py": ["tests/callbacks/test_watchers.py", "tests/callbacks/test_rules.py"],
    "fastgen/callbacks/throughput.py": ["tests/callbacks/test_watchers.py", "tests/callbacks/test_rules.py"],
    "fastgen/callbacks/sampling.py": ["tests/callbacks/test_grid.py", "tests/callbacks/test_evaluation.py"],
    "fastgen/callbacks/clock.py": ["tests/callbacks/test_evaluation.py", "tests/callbacks/test_watchers.py"],
    "fastgen/callbacks/predictions.py": ["tests/callbacks/test_watchers.py"],
    "fastgen/results/kinds.py": ["tests/report/test_summary.py", "tests/report/test_external.py"],
    "fastgen/results/former_names.py": ["tests/report/test_summary.py", "tests/metrics/test_suites.py"],
    "fastgen/results/rows.py": ["tests/callbacks/test_rules.py", "tests/callbacks/test_evaluation.py"],
    "fastgen/callbacks": ["tests/callbacks/test_watchers.py", "tests/callbacks/test_ema.py"],
    "fastgen/checkpoints": [
        "tests/checkpoints/test_adapter_roles.py",
        "tests/checkpoints/test_trust.py",
        "tests/checkpoints/test_bad_input.py",
    ],
    "fastgen/checkpoints/reading.py": [
        "tests/checkpoints/test_trust.py -k pickles or poisoned_checkpoint",
        "tests/checkpoints/test_protocols.py",
        "tests/checkpoints/test_adapter_roles.py",
        "tests/checkpoints/test_bad_input.py",
    ],
    "fastgen/checkpoints/restoring.py": ["tests/checkpoints/test_seals.py"],
    "fastgen/checks.py": ["tests/configuration/test_checks.py"],
    "fastgen/cli": ["tests/cli/test_cli.py", "tests/checkpoints/test_bad_input.py", "tests/layouts"],
    "fastgen/configuration": [
        "tests/configuration/test_components.py",
        "tests/configuration/test_messages.py",
        "tests/checkpoints/test_trust.py",
    ],
    "fastgen/configuration/former_recipes.py": [
        "tests/configuration/test_former_recipes.py -k by_hand or today or moved",
        "tests/configuration/test_former_recipes.py",
    ],
    "fastgen/configuration/masking.py": ["tests/checkpoints/test_trust.py"],
    "fastgen/configuration/renamed.py": [
        "tests/configuration/test_components.py",
        "tests/configuration/test_messages.py",
        "tests/cli/test_cli.py",
    ],
    "fastgen/configuration/trust.py": ["tests/checkpoints/test_trust.py"],
    "fastgen/configuration/type_hints.py": [
        "tests/cli/test_mistyped.py",
        "tests/checkpoints/test_trust.py",
        "tests/configuration/test_declared.py",
    ],
    "fastgen/cli/commands/pairs.py": ["tests/data/test_pairs.py", "tests/cli/test_cli.py"],
    "fastgen/cli/commands/stats.py": ["tests/commands/test_stats.py", "tests/cli/test_evaluation_cli.py"],
    "fastgen/cli/commands/export.py": ["tests/export/test_export.py", "tests/checkpoints/test_bad_input.py"],
    "fastgen/cli/commands/compare.py": ["tests/report", "tests/cli/test_cli.py"],
    "fastgen/cli/commands/report.py": ["tests/report", "tests/cli/test_cli.py"],
    "fastgen/cli/commands/scores.py": ["tests/report/test_external.py", "tests/cli/test_cli.py"],
    "fastgen/conditions.py": [
        "tests/configuration/test_defaults.py",
        "tests/methods/test_guidance_by_number.py",
        "tests/methods/test_score.py",
    ],
    "fastgen/data/base.py": ["tests/data/test_data_base.py", "tests/data/test_data_ranks.py"],
    "fastgen/data/loader.py": ["tests/data/test_data_base.py", "tests/data/test_data_ranks.py"],
    "fastgen/data/order.py": ["tests/data/test_data_base.py", "tests/data/test_data_ranks.py"],
    "fastgen/data/digits.py": ["tests/data/test_digits.py"],
    "fastgen/data/images.py": ["tests/data/test_image_folder.py"],
    "fastgen/data/mixture.py": ["tests/data/test_mixture_data.py"],
    "fastgen/data/pairs.py": ["tests/data/test_pairs.py"],
    "fastgen/data/prompts.py": ["tests/data/test_prompts.py"],
    "fastgen/data": ["tests/data"],
    "fastgen/denoisers/causal": ["tests/video"],
    "fastgen/metrics/laws/clips.py": ["tests/video/test_clip_metrics.py"],
    "fastgen/methods/video": ["tests/video", "tests/methods/test_contract.py -k NAMES"],
    "fastgen/sampling/clips/streams.py": ["tests/video/test_chunks.py", "tests/video/test_causal.py"],
    "fastgen/sampling/clips/chunks.py": ["tests/video/test_chunks.py"],
    "fastgen/denoisers/wrappers/lora.py": [
        "tests/denoisers/test_adapters.py",
        "tests/checkpoints/test_adapter_roles.py",
    ],
    "fastgen/denoisers/exact/gaussians.py": ["tests/denoisers/test_analytic.py"],
    "fastgen/denoisers/exact/mixtures.py": ["tests/denoisers/test_analytic.py"],
    "fastgen/denoisers/wrappers/on_grid.py": [
        "tests/methods/test_optimal_steps.py",
        "tests/methods/test_guidance_by_number.py",
    ],
    "fastgen/denoisers/networks/dropout.py": ["tests/objectives/test_tangents.py", "tests/methods/test_flow_maps.py"],
    "fastgen/denoisers/wrappers/experts.py": ["tests/denoisers/test_experts.py", "tests/methods/test_phased_dmd.py"],
    "fastgen/denoisers/wrappers/features.py": ["tests/denoisers/test_features.py", "tests/extras/test_gan.py"],
    "fastgen/denoisers/wrappers/freezing.py": ["tests/methods/test_gdd.py"],
    "fastgen/denoisers/wrappers/policy.py": ["tests/methods/test_pi_flow.py"],
    "fastgen/denoisers/networks/preconditioning.py": [
        "tests/denoisers/test_preconditioning.py",
        "tests/denoisers/test_networks.py",
    ],
    "fastgen/denoisers/wrappers/on_process.py": [
        "tests/methods/test_roles.py",
        PROCESSES,
        "tests/denoisers/test_networks.py",
        "tests/methods/test_flow_maps.py",
    ],
    "fastgen/denoisers/diffusers/schedulers.py": [
        "tests/denoisers/test_schedulers.py",
        "tests/denoisers/test_families.py",
    ],
    "fastgen/denoisers/networks/unet.py": ["tests/denoisers/test_unet.py", "tests/denoisers/test_networks.py"],
    "fastgen/denoisers/networks/dit.py": ["tests/denoisers/test_dit.py", "tests/denoisers/test_networks.py"],
    "fastgen/denoisers/diffusers": [
        "tests/denoisers/test_families.py",
        "tests/denoisers/test_family_inputs.py",
        "tests/denoisers/test_loading.py",
        "tests/denoisers/test_family_options.py",
        "tests/denoisers/test_diffusers_sd.py",
        "tests/denoisers/test_told_guidance.py",
        "tests/denoisers/test_exact_time.py",
    ],
    "fastgen/denoisers/diffusers/flow_transformers.py": [
        "tests/denoisers/test_families.py",
        "tests/denoisers/test_family_inputs.py",
    ],
    "fastgen/denoisers/diffusers/text.py": [
        "tests/denoisers/test_families.py",
        "tests/denoisers/test_family_inputs.py",
        "tests/denoisers/test_diffusers_sd.py",
    ],
    "fastgen/denoisers/diffusers/packing.py": [
        "tests/denoisers/test_families.py",
        "tests/denoisers/test_family_inputs.py",
    ],
    "fastgen/denoisers/wrappers/guided.py": [
        "tests/methods/test_guidance_by_number.py -k test_solvers or the_ways",
        NUMBERS,
        "tests/methods/test_guidance_by_number.py",
    ],
    "fastgen/denoisers": [
        "tests/denoisers/test_networks.py",
        "tests/methods/test_guidance_by_number.py -k test_solvers or the_ways or NAMES",
        NUMBERS,
        "tests/methods/test_roles.py -k view or learned",
        "tests/methods/test_flow_maps.py",
    ],
    "fastgen/export": ["tests/export/test_export.py"],
    "fastgen/extras/distribution_matching.py": [
        "tests/extras/test_distribution_matching.py",
        "tests/extras/test_extra_rules.py",
        "tests/methods/test_guidance_by_number.py",
        PROCESSES,
    ],
    "fastgen/extras": ["tests/extras", ROLES, NUMBERS],
    "fastgen/extras/frozen.py": ["tests/extras/test_reward.py", "tests/methods/test_roles.py -k reward"],
    "fastgen/extras/reward.py": ["tests/extras/test_reward.py", "tests/methods/test_roles.py -k reward"],
    "fastgen/extras/shared_encoder.py": [
        "tests/methods/test_score_identity.py",
        f"{ALL_NUMBERS} and SiDA",
        "tests/extras/test_any_method.py",
    ],
    "fastgen/storage/files.py": [
        "tests/checkpoints/test_bad_input.py",
        "tests/callbacks/test_checkpoint.py",
        "tests/denoisers/test_loading.py",
    ],
    "fastgen/storage/fingerprints.py": ["tests/metrics/test_reference.py", "tests/callbacks/test_unfinished.py"],
    "fastgen/layouts": ["tests/layouts", "tests/data/test_pairs.py"],
    "fastgen/times/jumps.py": [
        "tests/times/test_times.py",
        "tests/configuration/test_defaults.py",
        f"{ALL_NUMBERS} and (MeanFlow or SCM or ECT or LCM or Shortcut)",
        "tests/methods/test_flow_maps.py",
    ],
    "fastgen/metrics/samples/frechet.py": ["tests/metrics/test_frechet.py", "tests/metrics/test_scores.py"],
    "fastgen/metrics/samples/kernel.py": ["tests/metrics/test_kernel.py"],
    "fastgen/metrics/samples/precision_recall.py": ["tests/metrics/test_precision_recall.py"],
    "fastgen/metrics/samples/inception_score.py": ["tests/metrics/test_scores.py"],
    "fastgen/metrics/samples/cmmd.py": ["tests/metrics/test_scores.py", "tests/metrics/test_kernel.py"],
    "fastgen/metrics/samples/vendi.py": ["tests/metrics/test_scores.py"],
    "fastgen/metrics/samples/duplicates.py": ["tests/metrics/test_duplicates.py"],
    "fastgen/metrics/samples/reference.py": ["tests/metrics/test_reference.py"],
    "fastgen/metrics/suites/image_suite.py": [
        "tests/metrics/test_image_metrics.py",
        "tests/metrics/test_suites.py",
        "tests/metrics/test_reference.py",
        "tests/callbacks/test_unfinished.py",
    ],
    "fastgen/metrics/measuring.py": ["tests/callbacks/test_evaluation.py", "tests/package/test_from_python.py"],
    "fastgen/metrics/base.py": ["tests/metrics/test_suites.py", "tests/metrics/test_ranks.py", "tests/metrics"],
    "fastgen/metrics": ["tests/metrics"],
    "fastgen/objectives/adversarial.py": ["tests/objectives/test_adversarial.py", "tests/methods/test_gdd.py"],
    "fastgen/objectives/score_forms.py": [
        f"{ALL_NUMBERS} and (DMD2 or SwiftBrush or DiffInstruct or SiD or SIM or TDM)",
        "tests/objectives",
        "tests/methods/test_score_identity.py",
        MATCHING,
    ],
    "fastgen/objectives/distribution_matching.py": [
        "tests/objectives/test_distribution_matching.py",
        f"{ALL_NUMBERS} and (DMD2 or SwiftBrush or DecoupledDMD or TDM)",
        MATCHING,
    ],
    "fastgen/objectives": [
        "tests/objectives",
        NUMBERS,
        "tests/methods/test_score_identity.py",
        MATCHING,
        "tests/methods/test_trajectory.py",
    ],
    "fastgen/pictures/grids.py": ["tests/pictures/test_pictures.py", "tests/callbacks/test_grid.py"],
    "fastgen/precision.py": [
        "tests/callbacks/test_ema.py",
        "tests/denoisers/test_adapters.py",
        "tests/methods/test_contract.py",
    ],
    "fastgen/processes": [
        "tests/processes/test_processes.py",
        "tests/sampling/test_solvers.py",
        "tests/configuration/test_defaults.py",
    ],
    "fastgen/randomness.py": [
        "tests/package/test_randomness.py",
        "tests/sampling/test_samplers.py",
        "tests/methods/test_roles.py",
    ],
    "fastgen/report": ["tests/report"],
    "fastgen/schedules.py": ["tests/methods/test_published_optimizers.py -k rate or length or cosine"],
    "fastgen/shapes.py": ["tests/package/test_shapes.py", "tests/processes/test_processes.py"],
    "fastgen/storage": [
        "tests/storage/test_writing.py",
        "tests/storage/test_documents.py",
        "tests/checkpoints/test_bad_input.py",
    ],
    "fastgen/storage/pair_folder.py": ["tests/data/test_pairs.py"],
    "fastgen/storage/digests.py": ["tests/checkpoints/test_seals.py"],
    "fastgen/denoisers/wrappers/policies.py": ["tests/methods/test_pi_flow.py", "tests/methods/test_policies.py"],
    "fastgen/sampling": [
        "tests/sampling",
        PROCESSES,
        "tests/methods/test_two_processes.py -k refused",
        "tests/methods/test_score.py",
        TERM,
        "tests/methods/test_phased_dmd.py",
        NUMBERS,
        MATCHING,
        "tests/methods/test_guidance_by_number.py",
    ],
    **{
        f"fastgen/{path}.py": ["tests/methods/test_solver_methods.py", "tests/methods/test_optimal_steps.py"]
        for path in (
            "sampling/runge_kutta",
            "sampling/corrections",
            "sampling/optimal_steps",
            "sampling/samplers/assisted/base_first",
            "sampling/samplers/assisted/distillation_plus_plus",
            "methods/solvers/d_ode",
            "methods/solvers/bespoke",
        )
    },
    "fastgen/denoisers/networks/equilibrium.py": ["tests/methods/test_policies.py"],
    "fastgen/sampling/samplers/grid.py": ["tests/sampling/test_samplers.py", "tests/methods/test_optimal_steps.py"],
    "fastgen/sampling/samplers/policy.py": ["tests/methods/test_pi_flow.py", "tests/sampling/test_samplers.py"],
    "fastgen/sampling/samplers/phased.py": ["tests/methods/test_phased_dmd.py", "tests/sampling/test_samplers.py"],
    "fastgen/sampling/samplers/student.py": [
        "tests/configuration/test_former_modules.py",
        "tests/sampling/test_samplers.py",
    ],
    "fastgen/sampling/solvers/base.py": ["tests/sampling/test_solvers.py", "tests/methods/test_guidance_by_number.py"],
    "fastgen/sampling/scores.py": [
        "tests/sampling/test_samplers.py",
        "tests/times/test_times.py",
        "tests/methods/test_score.py",
        TERM,
        f"{ALL_NUMBERS} and (DMD2 or SwiftBrush or TDM or PhasedDMD)",
        "tests/methods/test_phased_dmd.py",
        MATCHING,
        "tests/methods/test_guidance_by_number.py",
    ],
    "fastgen/fitting.py": [
        "tests/checkpoints/test_seals.py",
        "tests/methods/test_not_a_number.py",
        "tests/denoisers/test_unet.py",
    ],
    "fastgen/checkpoints/seals.py": ["tests/checkpoints/test_seals.py", "tests/checkpoints/test_run_folders.py"],
    "fastgen/sharding.py": ["tests/checkpoints/test_sharding.py"],
    "fastgen/strategies.py": ["tests/checkpoints/test_sharding.py", "tests/cli/test_cli.py"],
    "fastgen/times": ["tests/times/test_times.py", "tests/configuration/test_defaults.py", NUMBERS],
    **{
        f"fastgen/times/{name}.py": ["tests/methods/test_consistency.py", "tests/configuration/test_defaults.py"]
        for name in ("nearby", "segments", "truncated")
    },
    "fastgen/times/curricula.py": ["tests/methods/test_consistency.py", "tests/configuration/test_defaults.py"],
    "fastgen/times/easy.py": [
        "tests/times/test_times.py",
        "tests/configuration/test_defaults.py",
        f"{ALL_NUMBERS} and ECT",
    ],
    "fastgen/times/levels.py": ["tests/times/test_times.py", "tests/configuration/test_defaults.py"],
    "fastgen/pictures/videos.py": ["tests/pictures/test_pictures.py", "tests/layouts"],
    "fastgen/distiller": ENGINE,
    "fastgen/distiller/groups.py": ["tests/objectives/test_advantages.py", "tests/methods/test_amd.py"],
    "fastgen/distiller/micro_batch.py": ["tests/methods/test_updates.py", NUMBERS, ROLES, CONTRACT],
    "fastgen/distiller/resume.py": ["tests/methods/test_resume_settings.py", "tests/checkpoints/test_seals.py"],
    "fastgen/distiller/start.py": ["tests/methods/test_resume_settings.py", "tests/methods/test_map_parts.py"],
    "fastgen/distiller/rollouts.py": [*ENGINE[:2], "tests/extras/test_any_method.py", *ENGINE[2:]],
    "fastgen/distiller/score_term.py": [NUMBERS, TERM, "tests/methods/test_score_identity.py", *SCORES, ALL_NUMBERS],
    "fastgen/distiller/stages.py": [
        "tests/methods/test_updates.py",
        f"{ALL_NUMBERS} and Progressive",
        "tests/methods/test_trajectory.py",
    ],
    "fastgen/methods/distribution_matching": SCORES,
    "fastgen/methods/distribution_matching/tdm.py": ["tests/objectives/test_distribution_matching.py", *SCORES],
    "fastgen/methods/score_identity": ["tests/methods/test_score_identity.py", *SCORES],
    "fastgen/distiller/state.py": ["tests/methods/test_contract.py", "tests/callbacks/test_checkpoint.py"],
    "fastgen/methods/adversarial/gdd.py": ["tests/methods/test_gdd.py", *METHODS],
    **{
        f"fastgen/methods/trajectories/{name}.py": ["tests/methods/test_regressions.py", *METHODS]
        for name in ("rfpp", "slim_flow", "sfd", "sfddm")
    },
    "fastgen/cli/stage_runs.py": ["tests/commands/test_stages.py"],
    "fastgen/methods/trajectories/kd.py": ["tests/methods/test_trajectory.py", *METHODS],
    "fastgen/methods/trajectories/reflow.py": ["tests/methods/test_trajectory.py", *METHODS],
    "fastgen/methods/trajectories/base.py": ["tests/methods/test_trajectory.py", *METHODS],
    "fastgen/methods/trajectories/progressive.py": ["tests/methods/test_trajectory.py", *METHODS],
    "fastgen/methods/trajectories/pi_flow.py": ["tests/methods/test_pi_flow.py", *METHODS],
    "fastgen/methods/solvers/optimal_steps.py": ["tests/methods/test_optimal_steps.py", *METHODS],
    "fastgen/methods/distribution_matching/phased_dmd.py": ["tests/methods/test_phased_dmd.py", *METHODS],
    "fastgen/distiller/schedule.py": ["tests/methods/test_schedule.py"],
    "fastgen/methods/distribution_matching/base.py": ["tests/methods/test_score.py", *METHODS],
    "fastgen/methods/teachers/teacher.py": ["tests/methods/test_teacher.py", *METHODS],
    "fastgen/methods/consistency": ["tests/methods/test_consistency.py", *METHODS],
    "fastgen/methods/flow_maps/sources.py": [
        "tests/methods/test_map_parts.py",
    ],
    "fastgen/methods/flow_maps/targets.py": ["tests/methods/test_map_parts.py", "tests/configuration/test_defaults.py"],
    "fastgen/methods/flow_maps/target_by_time.py": [
        "tests/methods/test_map_parts.py",
    ],
    "fastgen/methods": [
        *METHODS[:2],
        "tests/methods/test_map_parts.py",
        *METHODS[2:5],
        "tests/methods/test_flow_maps.py",
        "tests/methods/test_closed_form.py",
        CONTRACT,
    ],
}
"""Tests by the beginning of a file's path; the longest that fits counts. Fast ones come first.

A folder stands for its files, ``NAMES`` for the methods that the file makes, and ``-k`` is pytest's.
"""


ONLY = {
    "dmd2": "DMD2",
    "sid": "SiD",
    "few_step_sid": "FewStepSiD",
    "real_uid": "RealUID",
    "sida": "SiDA",
    "sim": "SIM",
    "diff_instruct": "DiffInstruct",
    "swiftbrush": "SwiftBrush",
    "tdm": "TDM",
    "phased_dmd": "PhasedDMD",
    "decoupled_dmd": "DecoupledDMD",
    "f_distill": "FDistill",
    "gdd": "GDD",
    "kd": "KD",
    "reflow": "Reflow",
    "progressive": "Progressive",
    "pi_flow": "PiFlow",
    "optimal_steps": "OptimalSteps",
    "mean_flow": "MeanFlow",
    "scm": "SCM",
    "shortcut": "Shortcut",
    "teacher": "TeacherTraining",
}
"""The one method that a file under ``fastgen/methods`` makes: of what holds of every method its own part is run."""

SHARED = {
    "discrete_consistency": "ECT",
    "eulerian": "MeanFlow",
    "score_term": "DMD2",
    "density_ratios": "FDistill or f_distill",
    "self_distillation": "PSD",
    "transition": "LCM",
    "velocity": "MeanFlow",
}
"""The same for files that several methods share."""


SOME = "DMD2 or MeanFlow or KD"
"""Methods that stand for all, where a file serves any."""


def files_for(file: str) -> list[str]:
    """The tests for mutations of ``file``, ``PATH`` or ``PATH -k EXPRESSION``; of files that exist."""
    best = max((start for start in RULES if file.startswith(start)), key=len, default="")
    stem = Path(file).stem
    names = ONLY.get(stem, SHARED.get(stem, SOME))
    if stem in ONLY and "_" in stem:
        names = f"{names} or {stem}"  # in the names of tests
    tests = [test.replace("NAMES", names) for test in RULES.get(best, ["tests/cli/test_cli.py"])]
    found = [one for test in tests if (ROOT / file_of(test)).exists() for one in single_files(test, file)]
    return list(dict.fromkeys(found))


def file_of(test: str) -> str:
    """The file or folder of a test."""
    return test.partition("::")[0].partition(" -k ")[0]


def single_files(test: str, file: str) -> list[str]:
    """The files of a folder of tests, those with a word of ``file``'s name first; anything else as it is."""
    if not (ROOT / file_of(test)).is_dir():
        return [test]
    words = Path(file).stem.split("_")
    found = sorted((ROOT / test).glob("test_*.py"), key=lambda path: (not any(w in path.stem for w in words), path))
    return [str(path.relative_to(ROOT)) for path in found]
