"""One small service in five frameworks, each as its users write it."""
