"""The command line: arguments in, results out. No arithmetic lives here, and no verb imports another's packages."""
