"""Physical constants and unit rules: nm, kJ/mol, K, rad throughout the package.

Source: the exact values of the 2019 SI (Boltzmann and Avogadro constants), in kJ/mol/K.
"""

#: Molar gas constant R = k_B N_A in kJ/(mol K): 1.380649e-23 J/K × 6.02214076e23 /mol.
MOLAR_GAS_CONSTANT_KJ_PER_MOL_KELVIN = 1.380649e-23 * 6.02214076e23 * 1e-3


def thermal_energy_kj_mol(temperature_kelvin: float) -> float:
    """KT in kJ/mol.

    Args:
      temperature_kelvin: a positive, finite temperature.

    Returns:
      kT; 2.494339 kJ/mol at 300 K.

    Raises:
      ValueError: if the temperature is not positive and finite.
    """
    if not 0.0 < temperature_kelvin < float("inf"):
        raise ValueError(f"temperature_kelvin must be positive and finite, got {temperature_kelvin!r}.")
    return MOLAR_GAS_CONSTANT_KJ_PER_MOL_KELVIN * temperature_kelvin
