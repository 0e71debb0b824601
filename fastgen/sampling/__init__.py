"""How teachers and students generate: solvers, few-step samplers, rollouts."""
