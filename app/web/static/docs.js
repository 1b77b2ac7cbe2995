// An earlier version of this page kept what was typed into Authorize.
localStorage.removeItem("authorized");

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  // Without the bar of the standalone layout, which loads any document from anywhere.
  layout: "BaseLayout",
  persistAuthorization: false,
  // Otherwise the page would show the document to a validator on the Internet.
  validatorUrl: null,
});
