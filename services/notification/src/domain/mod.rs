//! What a customer is told and when: stages, the rules of the follow-up, brands. Pure.

pub mod brand;
pub mod message;
pub mod notification;
pub mod stage;
pub mod turn;
