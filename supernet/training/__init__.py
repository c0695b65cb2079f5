"""What training needs: the loop, BN statistics, checkpoints, processes, progress."""
