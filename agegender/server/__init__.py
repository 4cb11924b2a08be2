"""A REST API and a web page for a `Predictor`."""

from agegender.server.app import create_app
from agegender.server.runner import serve

__all__ = ["create_app", "serve"]
