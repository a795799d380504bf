"""What every stage stands on: errors, settings, files, the terminal, signals, the device."""
