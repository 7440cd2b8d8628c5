"""Routes and built assets of the dashboard; its sources are in web/."""
