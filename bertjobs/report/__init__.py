"""Pictures and pages made from run directories."""
