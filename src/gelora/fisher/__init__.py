"""The empirical Fisher information of modules and parameters: its spectrum, and its rank."""

from gelora.fisher.spectra import FisherSpectrum as FisherSpectrum
from gelora.fisher.spectra import energy_rank as energy_rank
from gelora.fisher.spectra import fisher_spectra as fisher_spectra
from gelora.fisher.spectra import parameter_spectrum as parameter_spectrum
