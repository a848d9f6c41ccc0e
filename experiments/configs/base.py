"""Every setting of a run with its meaning; the files of the systems override what they need."""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The published setting of Constrained Mass Transport for alanine dipeptide."""
    config = ConfigDict()
    config.seed = 0  # of parameters, samples and shuffling
    config.num_seeds = 1  # runs with seeds seed, seed + 1, … trained together, in seed_0, seed_1, … of the workdir
    config.initial_run = ""  # run directory whose flow this run starts from; "": a fresh flow
    config.temperature_kelvin = 300.0

    config.molecule = ConfigDict()
    config.molecule.name = "alanine_dipeptide"  # a published molecule; or "" and one of the next two
    config.molecule.sequence = ""  # such as "ACE-ALA-NME"
    config.molecule.pdb = ""  # path of a PDB file
    config.molecule.force_field = ""  # with sequence or pdb: "amber96-obc1" or "amber99sbildn-obc2"

    config.energy = ConfigDict()
    config.energy.backend = "auto"  # "amber": in JAX on the device; "openmm": worker processes; "auto": amber if it can
    config.energy.num_workers = 0  # OpenMM processes; 0: one a core
    config.energy.platform = ""  # "Reference", "CPU", or "" for the faster one, measured at the start
    config.energy.regularization = ConfigDict()
    config.energy.regularization.scheme = "additive_log"  # or "multiplicative_log"
    config.energy.regularization.high = 1e8  # kT above which energies grow logarithmically
    config.energy.regularization.maximum = 1e20  # kT

    config.flow = ConfigDict()
    config.flow.num_couplings = 16
    config.flow.num_bins = 8
    config.flow.hidden_sizes = (256, 256, 256, 256, 256)
    config.flow.feature_scale = 1.0  # magnifies bonds and angles as inputs of the conditioners
    config.flow.seed = 0  # of masks and shifts

    config.method = ConfigDict()
    config.method.name = "cmt"
    config.method.buffer_size = 500_000  # N, samples and energies an annealing step
    config.method.batch_size = 1000  # B
    config.method.num_gradient_steps = 2000  # K, an annealing step
    config.method.trust_region_bound = 0.3  # ε_tr in nats; inf: off
    config.method.entropy_bound = 0.8  # ε_ent in nats; inf: off
    config.method.weight_clip_fraction = 0.0  # share of the largest training weights that is clipped
    config.method.control_variate = 0.0  # from 0 (as published) to 1: less noise in the gradient of the fit
    config.method.held_out_fraction = 0.02  # share of the buffer that only measures overfitting
    config.method.chunk_size = 10_000  # samples at a time
    config.method.num_diagnostic_samples = 10_000  # of the fitted flow, without energies
    config.num_annealing_steps = 200

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # as published; "muon": Muon for hidden matrices, Adam for the rest
    config.optimizer.learning_rate = 4e-5
    config.optimizer.matrix_learning_rate = 3e-3  # of Muon
    config.optimizer.warmup_steps = 1000
    config.optimizer.weight_decay = 1e-5  # L2, added to the clipped gradient; 0 with Muon
    config.optimizer.max_gradient_norm = 100.0  # inf: off
    config.optimizer.final_learning_rate = 0.0  # of the cosine
    config.optimizer.constant_share = 0.0  # share of the steps after the warm-up before the cosine begins to fall
    config.optimizer.average_decay = 0.0  # of the running average of the parameters that is the flow; 0: none

    config.evaluation = ConfigDict()
    config.evaluation.num_samples = 1_000_000  # of the final flow, for summary.json and the figures
    config.evaluation.reference_log_z = config_dict.placeholder(float)  # drawn in the training curves
    return config
