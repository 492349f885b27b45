"""The servers: those that `junk-leads ui` starts and looks after, and that of scores."""
