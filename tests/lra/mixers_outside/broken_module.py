raise TypeError("a bug\nat import")
