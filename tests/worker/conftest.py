"""What every test of the worker shares."""

from __future__ import annotations

import torch

# The networks of the tests are small: a second thread would wait longer than it works, and tests run side by side.
torch.set_num_threads(1)
