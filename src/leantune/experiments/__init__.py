"""An experiment file becomes runs in fresh processes, their comparison and its report."""
