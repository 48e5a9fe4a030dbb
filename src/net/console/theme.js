// Before the first paint: the theme chosen on an earlier visit. Nothing else is ever stored.
"use strict";
try {
  const theme = localStorage.getItem("tickcast.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser that stores nothing: the system's theme it is.
}
