"""A bundle -> what a server wants to find, one package per server.

The table maps a name to a package, imported on use.
"""

from __future__ import annotations

SERVING = {
    "triton": "exporter.serving.triton",
}
