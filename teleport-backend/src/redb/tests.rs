//! What needs a look inside the driver.
