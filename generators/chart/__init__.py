"""What of the chart is made from elsewhere; ``make chart``."""
