"""A local page on which people ask a network why: any photograph, class, layer, method and threshold, answered while they watch."""
