"""Optimisers and the searches built on them. A search receives its costs as functions of an architecture."""
