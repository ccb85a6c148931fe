// The theme names its search button "Search" while it shows "Search Ctrl+K": what is shown shall be the name.
for (const button of document.querySelectorAll(".search-button-field")) button.removeAttribute("aria-label");
