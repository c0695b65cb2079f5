"""What decides on a machine with a GPU: whether the operators are right there, and faster than PyTorch. `make gpu`.

``run`` starts the stages one after the other, each in a process of its own under a limit of its own; ``STAGES`` lists
them. What a stage finds is in a JSON file from its first figure on, so nothing is lost when it, or all, is stopped, and
the same command goes on with what is not done, of the same sources on the same device. ``page`` makes a page of it, and
the file by which `--kernels auto` decides. ``--dry`` runs all of it on the CPU, at tiny sizes, into another folder: its
figures mean nothing and decide nothing, but the code is the same.
"""
