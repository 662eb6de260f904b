"""Tables and figures from results/ alone; works without torch."""
