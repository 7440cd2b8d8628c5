"""mDNS: the router announces itself, agents find it. What they then say is not known here.

Both sides follow the machine through its networks: when its addresses change they start anew,
when there is no usable network they say so once and go on trying.
"""

from ollama_herd.discovery.advertise import SERVICE, Advertisement
from ollama_herd.discovery.browse import RouterBrowser
from ollama_herd.discovery.networks import best_address, own_interfaces, shown_addresses

__all__ = [
    "SERVICE",
    "Advertisement",
    "RouterBrowser",
    "best_address",
    "own_interfaces",
    "shown_addresses",
]
