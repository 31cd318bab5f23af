"""The main job, shown and checked: two hundred payments on two chains, and books that agree with both."""
