# The same service as in service.yaml, which explains each setting.
#
#   terraform init
#   terraform apply -var project=PROJECT -var region=REGION -var service_account=SERVICE_ACCOUNT \
#     -var backend_image=… -var readygate_image=…
#
# What exists has to be known to Terraform first, with the same -var as above: the service, and
# the secret, if you have made it:
#
#   terraform import google_cloud_run_v2_service.my_service \
#     projects/PROJECT/locations/REGION/services/my-service
#   terraform import google_secret_manager_secret.readygate projects/PROJECT/secrets/readygate
#
# Terraform makes the service what this file says: merge your own env, secrets and VPC settings
# into it first, and read the plan before you apply it.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0"
    }
  }
}

variable "project" {
  type = string
}

variable "region" {
  type = string
}

variable "readygate_image" {
  type = string
}

variable "backend_image" {
  type = string
}

variable "service_account" {
  description = "The account that the service runs as."
  type        = string
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_secret_manager_secret" "readygate" {
  secret_id = "readygate"

  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_version" "readygate" {
  secret      = google_secret_manager_secret.readygate.id
  secret_data = file("${path.module}/proxy.toml")

  # A changed proxy.toml is another version. The one before it stays, for revisions name it: the one
  # that runs until the next has started, and those that are the way back.
  deletion_policy = "ABANDON"

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "readygate" {
  secret_id = google_secret_manager_secret.readygate.id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${var.service_account}"
}

resource "google_cloud_run_v2_service" "my_service" {
  name     = "my-service"
  location = var.region

  template {
    service_account                  = var.service_account
    timeout                          = "3600s"
    max_instance_request_concurrency = 500
    session_affinity                 = true
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"

    scaling {
      max_instance_count = 20
    }

    # The ingress.
    containers {
      name  = "readygate"
      image = var.readygate_image

      # For strict mode, with the startup_probe of the backend below.
      # depends_on = ["backend"]

      ports {
        name           = "http1"
        container_port = 8080
      }

      resources {
        cpu_idle          = true
        startup_cpu_boost = true
        limits = {
          cpu    = "1"
          memory = "256Mi"
        }
      }

      volume_mounts {
        name       = "readygate"
        mount_path = "/etc/readygate"
      }
    }

    containers {
      name  = "backend"
      image = var.backend_image

      env {
        name  = "PORT"
        value = "8081"
      }

      # For strict mode only.
      # startup_probe {
      #   period_seconds    = 1
      #   failure_threshold = 120
      #   tcp_socket {
      #     port = 8081
      #   }
      # }

      resources {
        cpu_idle          = true
        startup_cpu_boost = true
        limits = {
          cpu    = "1"
          memory = "512Mi"
        }
      }
    }

    volumes {
      name = "readygate"

      secret {
        secret = google_secret_manager_secret.readygate.secret_id

        items {
          version = google_secret_manager_secret_version.readygate.version
          path    = "proxy.toml"
        }
      }
    }
  }

  # The service account has to be able to read the secret before the first instance starts.
  depends_on = [google_secret_manager_secret_iam_member.readygate]
}
