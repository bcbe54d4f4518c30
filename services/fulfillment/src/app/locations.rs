//! Opens and lists locations.

use waybill_kernel::id::MerchantId;
use waybill_store::{Db, StoreError, Tx, UseCase};

use crate::domain::shipment::Location;
use crate::error::Error;
use crate::store::stock;

/// The most locations of a merchant. A list shows them all.
pub const MAX_LOCATIONS: i64 = 1_000;

/// Asks to open a location.
#[derive(Debug)]
pub struct CreateLocation {
    /// Whose it is.
    pub merchant: MerchantId,
    /// What it is.
    pub location: Location,
}

impl UseCase for CreateLocation {
    type Output = Location;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Location, Error> {
        match stock::insert_location(tx.conn(), self.merchant, &self.location, MAX_LOCATIONS).await {
            Ok(true) => Ok(self.location.clone()),
            Ok(false) => Err(Error::TooManyLocations { limit: MAX_LOCATIONS }),
            Err(error) if error.constraint() == Some("locations_name_once") => Err(Error::LocationExists {
                name: self.location.name.clone(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

/// The merchant's locations, by priority, then name.
///
/// # Errors
/// As the database answers.
pub async fn list(db: &Db, merchant: MerchantId) -> Result<Vec<Location>, StoreError> {
    stock::locations(db.pool(), merchant, MAX_LOCATIONS).await
}
