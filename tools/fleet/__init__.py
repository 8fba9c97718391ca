"""A fleet of gateways and workers on a virtual clock: the code that serves, without sound, sockets or waiting."""
