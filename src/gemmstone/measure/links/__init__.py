"""What connects things in this machine: collectives over processes, copies, transfers to a device, drives, launches."""
