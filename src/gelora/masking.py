"""Credentials have no place in what is written or shown."""

import os
import re

_STAND_IN = "***"
# Between the scheme and the host of an address; pathlib makes one slash of two.
_IN_ADDRESS = re.compile(r"(?<=[a-zA-Z0-9]:/)(/?)[^/@\s\"'\\]+@")
_IN_QUERY = re.compile(r"(?i)([?&][a-z_-]*(?:token|key|secret|password|signature|auth)[a-z_-]*=)[^&#\s\"'\\]+")
# Tokens of the Hugging Face hub.
_HUB_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def masked(text: str) -> str:
    """Return ``text`` with stars for the credentials in it.

    These are user and password of an address, values of its query that are named as secrets are, tokens of the hub, and
    the value of ``HF_TOKEN`` wherever it stands.

    Examples
    --------
    >>> masked("https://me:secret@host/a.csv?token=abc&rows=5")
    'https://***@host/a.csv?token=***&rows=5'
    """
    for variable in _VARIABLES:
        secret = os.environ.get(variable, "").strip()
        if len(secret) >= 8:  # a shorter one would be found in words
            text = text.replace(secret, _STAND_IN)
    text = _IN_ADDRESS.sub(rf"\g<1>{_STAND_IN}@", text)
    text = _IN_QUERY.sub(rf"\g<1>{_STAND_IN}", text)
    return _HUB_TOKEN.sub(_STAND_IN, text)
