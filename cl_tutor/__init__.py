"""The companion package of the course on continual learning.

Importing it sets PyTorch to one CPU thread: the course's networks are so small that more threads make them slower, and
with one thread the same sums are taken in the same order on every machine. For large networks of your own, write
`Learner(..., threads=8)`, or call `torch.set_num_threads` after the import.
"""

import torch

torch.set_num_threads(1)
